//! What the kernel and its folders say of this process and this machine. Facts alone: what follows from them is policy's.

pub mod asleep;
pub mod clock;
pub mod facts;
mod leases;
mod networks;
pub mod process;
pub mod text;
