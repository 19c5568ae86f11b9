//! From measurements to profiles: operator tables, and the fits behind them.
//!
//! A table ([`table`]) holds timed kernels, whoever timed them; [`surfaces`] are fitted through its
//! rows by [`fit`], and [`import`] makes a GPU's profile of them. What kernels do not show, of the
//! host and the links, [`deployment`] fits to measured runs.

pub mod deployment;
pub mod device;
pub mod fit;
pub mod import;
pub mod leave_out;
mod rows;
pub mod surfaces;
pub mod table;
