//! Images: a content-addressed OCI layout, its layers unpacked once.
