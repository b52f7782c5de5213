//! tests/netns
pub mod site;
