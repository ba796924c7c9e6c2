//! A real region server over real TLS, with phones and desks made by hand; the clock is the test's. Each
//! test has a linkage and a data folder of its own. The gateway is never reached.

mod authorise;
mod desk;
mod enrol;
mod feed;
mod proposals;
mod push;
mod world;
