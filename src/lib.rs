//! servesim
pub mod time;
pub mod units;
