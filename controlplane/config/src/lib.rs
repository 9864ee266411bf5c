//! turnpike-config
