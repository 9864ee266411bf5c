//! turnpike-policy
