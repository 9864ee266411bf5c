//! Stands in until the sheet is there.
