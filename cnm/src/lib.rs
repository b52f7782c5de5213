//! cnm
