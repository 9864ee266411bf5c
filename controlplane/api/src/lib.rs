//! turnpike-api
