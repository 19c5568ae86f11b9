//! From measurements to profiles.

pub mod fit;
