//! Why something was refused: one closed list, the same as `wuling.kernel.v1.ErrorReason`.

use crate::code_table;

code_table! {
    /// Why a call, an operation or an entry was refused.
    Reason {
        /// A field is missing, too long, out of range or of the wrong form.
        FieldInvalid = 1 "FIELD_INVALID",
        /// The method needs a certificate.
        CertificateRequired = 2 "CERTIFICATE_REQUIRED",
        /// The role may not do this.
        RoleForbidden = 3 "ROLE_FORBIDDEN",
        /// A read named no purpose.
        PurposeRequired = 4 "PURPOSE_REQUIRED",
        /// The enrolment code is unknown, used or too old.
        EnrolmentCodeInvalid = 5 "ENROLMENT_CODE_INVALID",
        /// A signature does not fit.
        SignatureInvalid = 6 "SIGNATURE_INVALID",
        /// The device was revoked.
        DeviceRevoked = 7 "DEVICE_REVOKED",
        /// The device is not enrolled here.
        DeviceUnknown = 8 "DEVICE_UNKNOWN",
        /// There is no such record for this caller.
        RecordNotFound = 9 "RECORD_NOT_FOUND",
        /// The record has moved on.
        RevisionStale = 10 "REVISION_STALE",
        /// The state does not allow the verb.
        StateForbidsVerb = 11 "STATE_FORBIDS_VERB",
        /// The operation id was used for another change.
        OperationIdReused = 12 "OPERATION_ID_REUSED",
        /// Free text names a person.
        TextNamesPerson = 13 "TEXT_NAMES_PERSON",
        /// Larger than its limit.
        LimitExceeded = 14 "LIMIT_EXCEEDED",
        /// The cursor is of another epoch.
        EpochChanged = 15 "EPOCH_CHANGED",
        /// The page token is not one of this query.
        PageTokenInvalid = 16 "PAGE_TOKEN_INVALID",
        /// The server cannot write.
        StorageUnavailable = 17 "STORAGE_UNAVAILABLE",
        /// The server is stopping or overloaded.
        ServerBusy = 18 "SERVER_BUSY",
        /// Internal error.
        Internal = 19 "INTERNAL",
        /// The region is not hosted here.
        RegionUnknown = 20 "REGION_UNKNOWN",
        /// Points outside an open shift.
        OutsideShift = 21 "OUTSIDE_SHIFT",
        /// The agreement version is not known.
        AgreementUnknown = 22 "AGREEMENT_UNKNOWN",
        /// No party of the agreement version.
        NotAParty = 23 "NOT_A_PARTY",
        /// The segment does not join on.
        ChainBroken = 24 "CHAIN_BROKEN",
        /// A frame came out of turn.
        ProtocolViolation = 25 "PROTOCOL_VIOLATION",
        /// Suite or format not known.
        SuiteUnknown = 26 "SUITE_UNKNOWN",
        /// The record's owner is not the origin.
        NotTheOwner = 27 "NOT_THE_OWNER",
        /// The kind is not known.
        KindUnknown = 28 "KIND_UNKNOWN",
        /// The entry cannot be opened or decoded.
        EntryUnreadable = 29 "ENTRY_UNREADABLE",
        /// Two entries claim one position.
        StreamForked = 30 "STREAM_FORKED",
        /// A position is lower than one shown before.
        WentBack = 31 "WENT_BACK",
        /// The parent operation was refused.
        ParentRejected = 32 "PARENT_REJECTED",
        /// The region or gateway was revoked.
        RegionRevoked = 33 "REGION_REVOKED",
        /// The trust at hand is too old for this.
        TrustStale = 34 "TRUST_STALE",
        /// Two directories claim one version.
        TrustForked = 35 "TRUST_FORKED",
        /// Two texts claim one version of an agreement.
        AgreementForked = 36 "AGREEMENT_FORKED",
        /// A newer version of the agreement has taken its place.
        AgreementSuperseded = 37 "AGREEMENT_SUPERSEDED",
        /// Two copies of a region are at work.
        RegionCloned = 38 "REGION_CLONED",
        /// The county may not list townships of its own.
        NotDelegated = 40 "NOT_DELEGATED",
        /// Another county lists one of these townships.
        TownshipTaken = 41 "TOWNSHIP_TAKEN",
        /// What was shown of the record lies beyond a cut.
        RecordQuarantined = 45 "RECORD_QUARANTINED",
        /// Nothing of the record is quarantined.
        NotQuarantined = 46 "NOT_QUARANTINED",
        /// There is no such proposal here.
        ProposalUnknown = 50 "PROPOSAL_UNKNOWN",
        /// The proposal was declined here.
        ProposalDeclined = 51 "PROPOSAL_DECLINED",
        /// No more proposals are kept here.
        ProposalsFull = 52 "PROPOSALS_FULL",
        /// The proposal is too old to be signed.
        ProposalExpired = 53 "PROPOSAL_EXPIRED",
        /// A region answers Fetch alone.
        NotAGateway = 55 "NOT_A_GATEWAY",
        /// No gateway shows what the origin of a stream has written.
        HeldBack = 56 "HELD_BACK",
        /// The record is offered to another region.
        RecordOffered = 58 "RECORD_OFFERED",
        /// No agreement in force grants that this record is handed over to that region.
        TransferNotGranted = 59 "TRANSFER_NOT_GRANTED",
        /// The offer was accepted, returned or recalled.
        OfferDecided = 60 "OFFER_DECIDED",
    }
}

/// How a caller should take a reason; maps one to one on gRPC codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasonKind {
    /// The request is wrong; send another.
    Invalid,
    /// Show who you are.
    Unauthenticated,
    /// You may not.
    Forbidden,
    /// It is not there.
    NotFound,
    /// It was made before.
    AlreadyExists,
    /// Read again, then try again.
    Conflict,
    /// Wrong state.
    Precondition,
    /// Too much.
    Exhausted,
    /// Try again later.
    Unavailable,
    /// Our fault.
    Internal,
}

impl Reason {
    /// How a caller should take it.
    pub const fn kind(self) -> ReasonKind {
        match self {
            Self::FieldInvalid
            | Self::PurposeRequired
            | Self::TextNamesPerson
            | Self::PageTokenInvalid
            | Self::OutsideShift
            | Self::SuiteUnknown
            | Self::KindUnknown
            | Self::EntryUnreadable
            | Self::ProtocolViolation => ReasonKind::Invalid,
            Self::CertificateRequired | Self::SignatureInvalid | Self::DeviceUnknown => {
                ReasonKind::Unauthenticated
            }
            Self::RoleForbidden
            | Self::DeviceRevoked
            | Self::EnrolmentCodeInvalid
            | Self::NotAParty
            | Self::NotTheOwner
            | Self::TransferNotGranted
            | Self::NotDelegated
            | Self::RegionRevoked => ReasonKind::Forbidden,
            Self::RecordNotFound
            | Self::RegionUnknown
            | Self::AgreementUnknown
            | Self::NotQuarantined
            | Self::ProposalUnknown => ReasonKind::NotFound,
            Self::OperationIdReused
            | Self::StreamForked
            | Self::TrustForked
            | Self::AgreementForked
            | Self::TownshipTaken
            | Self::RegionCloned => ReasonKind::AlreadyExists,
            Self::RevisionStale
            | Self::EpochChanged
            | Self::ChainBroken
            | Self::WentBack
            | Self::HeldBack => ReasonKind::Conflict,
            Self::StateForbidsVerb
            | Self::ParentRejected
            | Self::TrustStale
            | Self::RecordOffered
            | Self::OfferDecided
            | Self::RecordQuarantined
            | Self::NotAGateway
            | Self::ProposalDeclined
            | Self::ProposalExpired
            | Self::AgreementSuperseded => ReasonKind::Precondition,
            Self::LimitExceeded | Self::ProposalsFull => ReasonKind::Exhausted,
            Self::StorageUnavailable | Self::ServerBusy => ReasonKind::Unavailable,
            Self::Internal => ReasonKind::Internal,
        }
    }
}

/// What is wrong with one field, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field in proto names.
    pub field: String,
    /// What is wrong and what to do, one clause in English.
    pub description: String,
}

impl FieldViolation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}
