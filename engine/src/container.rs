//! Containers: what they are ([`Spec`]), what state they are in, and the operations on them.

pub mod spec;

pub use spec::Spec;
