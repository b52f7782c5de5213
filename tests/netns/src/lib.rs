//! tests/netns
