//! The daemon: listeners, signals, start and end.
