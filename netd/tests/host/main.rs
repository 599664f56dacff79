//! netd as users meet it: the real program on a host made of network namespaces. Needs root, and
//! says so and passes where it is not.

mod abuse;
mod addresses;
mod audit;
mod direct;
mod encrypted;
mod first;
mod guard;
mod ipv6;
mod leftovers;
mod limits;
mod live_ports;
mod lost;
mod names;
mod overlay;
mod overlay_names;
mod patience;
mod published;
mod published6;
mod ranges;
mod reconcile;
mod routers;
mod settings;
mod several;
mod tunnels;
mod wire;
mod world;
