//! What an audit finds: rows that do not fit what was signed, chained or counted.

use domain::code_table;
use domain::stream::StreamId;

code_table! {
    /// What is wrong with a row.
    What {
        /// Its bytes do not fit its hash.
        Changed = 1 "CHANGED",
        /// It should be there.
        Missing = 2 "MISSING",
        /// It should not be there, or not here.
        OutOfPlace = 3 "OUT_OF_PLACE",
        /// No single row can be named: together they do not lead to where the stream stands.
        ChainBroken = 4 "CHAIN_BROKEN",
        /// It cannot be read.
        Unreadable = 5 "UNREADABLE",
        /// It is not signed as it must be.
        SignatureInvalid = 6 "SIGNATURE_INVALID",
        /// Somebody has signed for another history than the one that is here.
        OtherHistory = 7 "OTHER_HISTORY",
    }
}

impl What {
    /// The same for a person.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Changed => "was changed: its bytes do not fit its hash 被改动",
            Self::Missing => "is missing 缺失",
            Self::OutOfPlace => "does not belong where it stands 位置不符",
            Self::ChainBroken => {
                "does not follow from the rows that are here: one was changed together with its hash 链断裂"
            }
            Self::Unreadable => "cannot be read 无法读取",
            Self::SignatureInvalid => "is not signed as it must be 签名无效",
            Self::OtherHistory => {
                "vouches for another history: rows were cut off, or the store is an older copy 历史不符"
            }
        }
    }
}

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The table.
    pub table: &'static str,
    /// The stream, where the row is of one.
    pub stream: Option<StreamId>,
    /// Its place in the stream, else its number in the table; 0 where it is the whole.
    pub number: u64,
    /// What is wrong.
    pub what: What,
}

/// What came of an audit.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Rows that were looked at.
    pub rows: u64,
    /// Rows that were written before their salts were kept, and can be checked by their own hash alone.
    pub without_salt: u64,
    /// What does not fit, in the order in which it was found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Notes something.
    pub fn find(
        &mut self,
        table: &'static str,
        stream: Option<&StreamId>,
        number: u64,
        what: What,
    ) {
        self.findings.push(Finding { table, stream: stream.cloned(), number, what });
    }
}
