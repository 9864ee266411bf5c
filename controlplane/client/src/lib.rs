//! turnpike-client
