//! Who may call what: one table `method x role`, default refuse. A method without a row does not start.

use domain::agreement::{Consent, Force};
use domain::kernel::{Kind, Role};

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody, also without a certificate: the call proves itself (an enrolment code, a signed batch).
    Anybody,
    /// Devices of this region with one of these roles.
    Roles(&'static [Role]),
    /// Regions with which one that is hosted here has an agreement. What of it they may read each answer decides.
    Neighbours,
}

const STAFF: &[Role] = &[
    Role::GridWorker,
    Role::Patroller,
    Role::ShiftLead,
    Role::Dispatcher,
    Role::Verifier,
    Role::DutyOfficer,
    Role::Administrator,
];
const LEADS: &[Role] = &[Role::ShiftLead, Role::Dispatcher, Role::Verifier, Role::DutyOfficer];
const DESK: &[Role] = &[Role::Dispatcher, Role::Verifier, Role::DutyOfficer];
/// Who accepts an event decides whose it is.
const DISPATCH: &[Role] = &[Role::Dispatcher, Role::DutyOfficer];
const TRACK_READERS: &[Role] = &[Role::ShiftLead, Role::DutyOfficer];
const OPERATORS: &[Role] = &[Role::DutyOfficer, Role::Administrator];
const DUTY: &[Role] = &[Role::DutyOfficer];

/// The table. The names are those of the contract; a test holds both against each other.
pub const TABLE: &[(&str, Access)] = &[
    ("wuling.device.v1.DeviceService/Enrol", Access::Anybody),
    ("wuling.device.v1.DeviceService/Push", Access::Anybody),
    ("wuling.device.v1.DeviceService/Pull", Access::Roles(STAFF)),
    ("wuling.device.v1.DeviceService/Watch", Access::Roles(STAFF)),
    ("wuling.device.v1.DeviceService/Sync", Access::Roles(STAFF)),
    ("wuling.patrol.v1.PatrolService/GetShift", Access::Roles(LEADS)),
    ("wuling.patrol.v1.PatrolService/ListShifts", Access::Roles(LEADS)),
    ("wuling.patrol.v1.PatrolService/GetPatrol", Access::Roles(LEADS)),
    ("wuling.patrol.v1.PatrolService/ListPatrols", Access::Roles(LEADS)),
    ("wuling.patrol.v1.PatrolService/ListCheckIns", Access::Roles(LEADS)),
    ("wuling.patrol.v1.PatrolService/ListTrackBatches", Access::Roles(TRACK_READERS)),
    ("wuling.patrol.v1.PatrolService/ListObservations", Access::Roles(LEADS)),
    ("wuling.patrol.v1.PatrolService/ListSosAlerts", Access::Roles(STAFF)),
    ("wuling.patrol.v1.PatrolService/TransitionSosAlert", Access::Roles(DESK)),
    ("wuling.risk.v1.RiskService/ReportEvent", Access::Roles(DESK)),
    ("wuling.risk.v1.RiskService/GetEvent", Access::Roles(STAFF)),
    ("wuling.risk.v1.RiskService/ListEvents", Access::Roles(STAFF)),
    ("wuling.risk.v1.RiskService/TransitionEvent", Access::Roles(DESK)),
    ("wuling.directory.v1.DirectoryService/GetRegion", Access::Roles(STAFF)),
    ("wuling.directory.v1.DirectoryService/ListRegions", Access::Roles(STAFF)),
    ("wuling.agreement.v1.AgreementService/ListAgreements", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/WatchStreams", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/GetStreamDigest", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/ExplainRecord", Access::Roles(DESK)),
    ("wuling.agreement.v1.AgreementService/PreviewOperation", Access::Roles(STAFF)),
    ("wuling.agreement.v1.AgreementService/DryRunAgreement", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/ExportBundle", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/ImportBundle", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/EraseRecord", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/ListErasures", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/ProposeAgreement", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/ListProposals", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/SignAgreement", Access::Roles(OPERATORS)),
    ("wuling.agreement.v1.AgreementService/DeclineProposal", Access::Roles(&[Role::Administrator])),
    ("wuling.agreement.v1.AgreementService/ListQuarantined", Access::Roles(DUTY)),
    ("wuling.agreement.v1.AgreementService/ReleaseQuarantined", Access::Roles(DUTY)),
    ("wuling.agreement.v1.TransferService/OfferRecord", Access::Roles(DISPATCH)),
    ("wuling.agreement.v1.TransferService/RecallOffer", Access::Roles(DISPATCH)),
    ("wuling.agreement.v1.TransferService/AcceptOffer", Access::Roles(DISPATCH)),
    ("wuling.agreement.v1.TransferService/ReturnOffer", Access::Roles(DISPATCH)),
    ("wuling.agreement.v1.TransferService/ListTransfers", Access::Roles(DESK)),
    ("wuling.exchange.v1.ExchangeService/Link", Access::Neighbours),
    ("wuling.exchange.v1.ExchangeService/Fetch", Access::Neighbours),
    ("wuling.exchange.v1.ExchangeService/Refresh", Access::Neighbours),
];

/// Every method that a caller can ask for.
pub fn methods() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(method, _)| *method)
}

/// Whether a role may call a method. A method without a row is refused.
pub fn may(method: &str, role: Role) -> bool {
    match TABLE.iter().find(|(name, _)| *name == method) {
        Some((_, Access::Anybody)) => true,
        Some((_, Access::Roles(roles))) => roles.contains(&role),
        Some((_, Access::Neighbours)) | None => false,
    }
}

/// Whether a role may bind its region to a version that needs these signatures. To share, and to end it for good, is
/// decided by the office, not by a shift: its administrator signs, who has always held the keys and the files. But a
/// leak is stopped, and a neighbour called upon in an emergency, at three in the morning: whoever is on duty may
/// suspend, and may put an annex into force that the office has signed beforehand.
pub fn may_bind(role: Role, consent: &Consent, force: Force) -> bool {
    let urgent = match consent {
        Consent::AllButOne => force == Force::Suspended,
        Consent::Any => true,
        Consent::All | Consent::Leaver(_) => false,
    };
    role == Role::Administrator || role == Role::DutyOfficer && urgent
}

/// Kinds whose records a role reads in the feed. Positions of staff are for the duty desk alone.
pub fn readable(role: Role) -> &'static [Kind] {
    match role {
        Role::GridWorker | Role::Patroller => {
            &[Kind::Shift, Kind::Patrol, Kind::Event, Kind::SosAlert]
        }
        Role::ShiftLead | Role::DutyOfficer => Kind::ALL,
        Role::Dispatcher | Role::Verifier => &[
            Kind::Shift,
            Kind::Patrol,
            Kind::CheckIn,
            Kind::Observation,
            Kind::Event,
            Kind::SosAlert,
        ],
        // Runs the server; what records say is not needed for that.
        Role::Administrator => &[],
    }
}

/// Methods of the contract's services that have no row here; a server with one does not start.
pub fn without_row(descriptor: &[u8]) -> Result<Vec<String>, prost::DecodeError> {
    use prost::Message as _;
    let set = prost_types::FileDescriptorSet::decode(descriptor)?;
    let mut missing = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                if !TABLE.iter().any(|(row, _)| *row == name) {
                    missing.push(name);
                }
            }
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_contract_has_a_row_and_every_row_a_method() {
        assert_eq!(without_row(proto::DESCRIPTOR).unwrap(), Vec::<String>::new());
        let text = String::from_utf8_lossy(proto::DESCRIPTOR);
        for (name, _) in TABLE {
            let method = name.split('/').nth(1).unwrap();
            assert!(text.contains(method), "{name}");
        }
    }

    #[test]
    fn a_method_without_a_row_is_refused_to_everybody() {
        for role in Role::ALL {
            assert!(!may("wuling.risk.v1.RiskService/DeleteEvent", *role));
        }
    }

    #[test]
    fn who_is_on_duty_stops_and_calls_up_and_binds_the_region_to_nothing_else() {
        let leaver = Consent::Leaver("xianfeng".parse().unwrap());
        let all = [Consent::All, Consent::AllButOne, Consent::Any, leaver];
        for (role, force) in
            Role::ALL.iter().flat_map(|role| Force::ALL.iter().map(move |f| (role, f)))
        {
            for consent in &all {
                let urgent = match consent {
                    Consent::AllButOne => *force == Force::Suspended,
                    Consent::Any => true,
                    _ => false,
                };
                let may = match role {
                    Role::Administrator => true,
                    Role::DutyOfficer => urgent,
                    _ => false,
                };
                assert_eq!(may_bind(*role, consent, *force), may, "{} {consent:?}", role.name());
            }
        }
    }

    #[test]
    fn only_shift_leads_and_duty_officers_read_positions_of_staff() {
        for role in Role::ALL {
            let reads = matches!(role, Role::ShiftLead | Role::DutyOfficer);
            assert_eq!(readable(*role).contains(&Kind::TrackBatch), reads);
            assert_eq!(may("wuling.patrol.v1.PatrolService/ListTrackBatches", *role), reads);
        }
    }
}
