//! Baton's reading of HTTP/1 against tables, against independent readings of whole buffers, and against
//! httparse. Nothing here shares code with the crate but its public types.

mod ambiguous;
mod conversation;
mod document;
mod heads;
mod messages;
mod naive;
mod packets;
mod paths;
mod readings;
mod routes;
