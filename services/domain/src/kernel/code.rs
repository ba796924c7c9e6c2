//! Code tables. Each number is the one on the wire and in storage; zero is never a value.

/// A number that stands for nothing in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{number} is no {table}")]
pub struct CodeError {
    /// The table.
    pub table: &'static str,
    /// The number.
    pub number: i64,
}

/// Declares a code table: an enum, its numbers, and the names used in files and on screen.
#[macro_export]
macro_rules! code_table {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)+ }

        impl $name {
            /// Every value of the table, in the order of its numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number on the wire and in storage.
            pub const fn code(self) -> i32 {
                match self { $(Self::$variant => $number,)+ }
            }

            /// The name in files and on screen.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The value with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl TryFrom<i64> for $name {
            type Error = $crate::kernel::CodeError;
            fn try_from(number: i64) -> Result<Self, Self::Error> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    _ => Err($crate::kernel::CodeError { table: stringify!($name), number }),
                }
            }
        }

        impl TryFrom<i32> for $name {
            type Error = $crate::kernel::CodeError;
            fn try_from(number: i32) -> Result<Self, Self::Error> {
                Self::try_from(i64::from(number))
            }
        }
    };
}

code_table! {
    /// The kinds of record.
    Kind {
        /// Who is on duty, from when to when.
        Shift = 1 "SHIFT",
        /// One round of a route.
        Patrol = 2 "PATROL",
        /// A patrol was at a checkpoint.
        CheckIn = 3 "CHECK_IN",
        /// Positions of a patrol on duty.
        TrackBatch = 4 "TRACK_BATCH",
        /// Something a patrol noticed.
        Observation = 5 "OBSERVATION",
        /// Something that needs handling.
        Event = 6 "EVENT",
        /// A member of staff needs help.
        SosAlert = 7 "SOS_ALERT",
    }
}

code_table! {
    /// The order in which a link carries entries; the first goes first.
    Lane {
        /// SOS, red and orange, cancellations.
        Alert = 1 "ALERT",
        /// Everything that is neither alert nor bulk.
        Routine = 2 "ROUTINE",
        /// Media and tracks.
        Bulk = 3 "BULK",
    }
}

code_table! {
    /// Reference frame of a position.
    Datum {
        /// GNSS receivers.
        Wgs84 = 1 "WGS84",
        /// EPSG:4490, equal to WGS-84 at field accuracy.
        Cgcs2000 = 2 "CGCS2000",
        /// Phone map kits in China; converted at the door.
        Gcj02 = 3 "GCJ02",
    }
}

code_table! {
    /// How a position was found.
    FixSource {
        /// Satellite receiver.
        Gnss = 1 "GNSS",
        /// NFC tag.
        Nfc = 2 "NFC",
        /// QR code.
        Qr = 3 "QR",
        /// Pointed at on a map.
        Map = 4 "MAP",
        /// The middle of a village or township.
        Centroid = 5 "CENTROID",
    }
}

code_table! {
    /// How far a record may travel, before any agreement is asked.
    Sensitivity {
        /// Anybody.
        Public = 1 "PUBLIC",
        /// All parties of an agreement.
        Region = 2 "REGION",
        /// Only named regions.
        Parties = 3 "PARTIES",
        /// Only within the owner's district.
        District = 4 "DISTRICT",
        /// Never leaves the region.
        Local = 5 "LOCAL",
    }
}

code_table! {
    /// Level of an emergency; I is the gravest and compares lowest.
    EmergencyLevel {
        /// 特别重大, red.
        I = 1 "I",
        /// 重大, orange.
        II = 2 "II",
        /// 较大, yellow.
        III = 3 "III",
        /// 一般, blue.
        IV = 4 "IV",
    }
}

code_table! {
    /// Why somebody reads.
    Purpose {
        /// Working a shift.
        Duty = 1 "DUTY",
        /// Answering an emergency.
        Emergency = 2 "EMERGENCY",
        /// Checking how a record was handled.
        Supervision = 3 "SUPERVISION",
        /// Keeping the system running.
        Operation = 4 "OPERATION",
    }
}

code_table! {
    /// What a certificate may do.
    Role {
        /// 网格员.
        GridWorker = 1 "GRID_WORKER",
        /// 巡逻队员.
        Patroller = 2 "PATROLLER",
        /// 班长.
        ShiftLead = 3 "SHIFT_LEAD",
        /// 指挥调度.
        Dispatcher = 4 "DISPATCHER",
        /// 核查员.
        Verifier = 5 "VERIFIER",
        /// 值班员.
        DutyOfficer = 6 "DUTY_OFFICER",
        /// 管理员.
        Administrator = 7 "ADMINISTRATOR",
    }
}

code_table! {
    /// How long a record is kept.
    RetentionClass {
        /// Raw positions of staff.
        Track = 1 "TRACK",
        /// Check-ins, patrols, shifts, observations.
        Patrol = 2 "PATROL",
        /// Events.
        Event = 3 "EVENT",
        /// Calls for help.
        Sos = 4 "SOS",
    }
}

impl RetentionClass {
    /// Days a record of this class is kept (DOMAIN 5, a proposal).
    pub const fn days(self) -> i64 {
        match self {
            Self::Track => 30,
            Self::Patrol => 365,
            Self::Event => 3 * 365,
            Self::Sos => 90,
        }
    }
}

impl Kind {
    /// The retention class of the kind.
    pub const fn retention_class(self) -> RetentionClass {
        match self {
            Self::TrackBatch => RetentionClass::Track,
            Self::Shift | Self::Patrol | Self::CheckIn | Self::Observation => {
                RetentionClass::Patrol
            }
            Self::Event => RetentionClass::Event,
            Self::SosAlert => RetentionClass::Sos,
        }
    }
}
