//! cni-adapter
