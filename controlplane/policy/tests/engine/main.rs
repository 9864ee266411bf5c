//! The engine with journal, workers and listeners around it.

mod model;
mod records;
mod rules;
mod support;
mod transactions;
