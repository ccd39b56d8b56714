//! Whole machines on a LAN that the test builds.

mod network;
