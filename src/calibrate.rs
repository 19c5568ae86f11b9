//! From measurements to profiles: operator tables, and the fits behind them.
//!
//! A table ([`table`]) holds timed kernels, whoever timed them; [`surfaces`] are fitted through its
//! rows by [`fit`], and [`import`] makes a GPU's profile of them.

pub mod device;
pub mod fit;
pub mod import;
pub mod leave_out;
pub mod surfaces;
pub mod table;
