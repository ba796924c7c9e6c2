//! Risk: events and how they are handled (DOMAIN 4.2).

mod category;
mod event;
mod event_flow;

pub use category::{CATEGORIES, Category, KEPT_HOME, RIVER_AND_FOREST, category};
pub use event::{EmergencyClass, Event, EventDomain, EventSource, EventState, EventVerb};
pub(crate) use event_flow::EventStep;
pub use event_flow::{
    ACCEPT_S, DISPATCH_S, EVENT_TRANSITIONS, FILE_S, HANDLE_ENGINEERING_S, HANDLE_NORMAL_S,
    HANDLE_URGENT_S, VERIFY_S,
};
