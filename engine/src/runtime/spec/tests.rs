//! What the specification says, without running it.
