//! turnpike-sim
