//! turnpike-wire
