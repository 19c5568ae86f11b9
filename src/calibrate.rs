//! From measurements to profiles: operator tables, and the fits behind them.
//!
//! A table ([`table`]) holds timed kernels, whoever timed them; [`fit`] is the least-squares solver.

pub mod device;
pub mod fit;
pub mod table;
