//! OCI runtimes: the bundle and the process that makes a container of it.
