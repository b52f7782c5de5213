//! The command line `rnet`: a client of the API.
