//! What an operator deploys, composed from the services and drivers below.

pub mod peer;
