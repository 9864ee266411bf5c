//! The engine with journal, workers and listeners around it.

mod model;
mod support;
mod transactions;
