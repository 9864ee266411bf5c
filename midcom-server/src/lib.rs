//! SIMCO
#![forbid(unsafe_code)]
