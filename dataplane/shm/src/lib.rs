//! turnpike-shm
