//! The event loop.
pub mod observer;
