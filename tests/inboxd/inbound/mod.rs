//! Arriving mail: what is found out about it, by a table and an independent judge; its limits; and what becomes of it on its
//! way through real mail servers.

mod limits;
mod mail;
mod rig;
mod table;
