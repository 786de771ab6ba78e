//! Administration over HTTP: routes, the words that they exchange, and problem details.
//!
//! Requests of operators enter, through the Unix socket in the data directory; what they ask for is done by the
//! directory and the registry, and their answers leave as JSON. Nothing is decided here, and no secret leaves.

pub mod api;
pub mod problem;
