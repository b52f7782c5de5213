//! Host port allocation.
