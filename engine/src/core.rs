//! The engine's operations, as the API and the daemon call them.
