//! Networks of the engine: the controller, the kernel, the resolver and the store put together.
