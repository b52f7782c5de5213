//! Flags and `daemon.json`, turned into one checked configuration before any effect.
