//! What is said to people when something is refused: for each reason one sentence in Chinese and one in
//! English, which say what happened and what to do.

use super::Reason;

impl Reason {
    /// What happened and what to do, in Chinese.
    pub const fn message_zh(self) -> &'static str {
        match self {
            Self::FieldInvalid => {
                "有字段缺失、过长、超出范围或格式不对，请按提示逐项改正后重新提交。"
            }
            Self::CertificateRequired => {
                "此操作需要设备证书，请先完成设备登记，再用登记的设备连接。"
            }
            Self::RoleForbidden => "您的岗位无权进行此操作，请联系值班员或管理员办理。",
            Self::PurposeRequired => "查询未注明用途，请选择查询用途后重试。",
            Self::EnrolmentCodeInvalid => {
                "登记码不存在、已使用或已超过15分钟，请向管理员索取新的登记码。"
            }
            Self::SignatureInvalid => {
                "签名与收到的内容不符，请重新签名后发送；若再次出现，请通知管理员。"
            }
            Self::DeviceRevoked => "本设备已被停用，请交还设备并联系管理员。",
            Self::DeviceUnknown => "本设备未在该地区登记，请向管理员索取登记码并登记。",
            Self::RecordNotFound => "没有这条记录，或您无权知悉，请核对编号。",
            Self::RevisionStale => "记录已被他人更新，请查看最新内容后再修改。",
            Self::StateForbidsVerb => "记录目前的状态不允许此操作，请刷新后按流程办理。",
            Self::OperationIdReused => "该操作编号已用于另一项更改，请用新的编号重新提交。",
            Self::TextNamesPerson => {
                "文字中含有身份证号、手机号、车牌号或银行卡号，请删去后重新提交。"
            }
            Self::LimitExceeded => "一次提交或查询的内容超过上限，请拆分成较小的部分再试。",
            Self::EpochChanged => "服务器已从备份恢复，请从头重新同步数据。",
            Self::PageTokenInvalid => "翻页标记与本次查询不符，请从第一页重新查询。",
            Self::StorageUnavailable => {
                "服务器磁盘已满或有故障，暂时无法保存；请保留数据稍后重试，并通知管理员。"
            }
            Self::ServerBusy => "服务器正忙或正在停机，请稍后重试。",
            Self::Internal => "服务器内部错误，请稍后重试，并将请求编号告知管理员。",
            Self::RegionUnknown => "本服务器不承载该地区，请核对地区编号和连接地址。",
            Self::OutsideShift => "轨迹点不在已开启的班次内，请先开班再记录轨迹。",
            Self::AgreementUnknown => "尚不知道这一版协议，请先送达经各方签署的协议再发送。",
            Self::NotAParty => "发送方或接收方不是该协议版本的缔约方，请核对协议。",
            Self::ChainBroken => "这一段与已存内容接不上，请从对方指明的位置重新发送。",
            Self::ProtocolViolation => "收到不合协议的数据，请核对双方软件版本后重新连接。",
            Self::SuiteUnknown => "本机不认识该数据段的格式或加密套件，请升级软件。",
            Self::NotTheOwner => "该记录不归发送地区所有，已拒收，请与归属地区核实。",
            Self::KindUnknown => "本机不认识这一类记录，已暂存待处理，请升级软件。",
            Self::EntryUnreadable => "条目无法解密或解析，已暂存待处理，请发送方重新封装后再发。",
            Self::StreamForked => "同一位置出现两条不同的条目，已停止接收，请立即通知管理员查证。",
            Self::WentBack => "对方的位置比先前出示的更低，可能从备份恢复过，请与对方管理员核实。",
            Self::ParentRejected => "所依据的前一项操作已被拒绝，请先改正前一项，再重新提交。",
        }
    }

    /// What happened and what to do, in English.
    pub const fn message_en(self) -> &'static str {
        match self {
            Self::FieldInvalid => {
                "A field is missing, too long, out of range or of the wrong form; correct the fields named and send again."
            }
            Self::CertificateRequired => {
                "This call needs a device certificate; enrol the device, then connect with it."
            }
            Self::RoleForbidden => {
                "Your role may not do this; ask a duty officer or the administrator."
            }
            Self::PurposeRequired => "The read names no purpose; choose one and try again.",
            Self::EnrolmentCodeInvalid => {
                "The enrolment code is unknown, used or older than 15 minutes; ask the administrator for a new one."
            }
            Self::SignatureInvalid => {
                "The signature does not fit the bytes received; sign and send again, and tell the administrator if it happens again."
            }
            Self::DeviceRevoked => {
                "This device was revoked; hand it in and speak to the administrator."
            }
            Self::DeviceUnknown => {
                "This device is not enrolled in the region; ask the administrator for an enrolment code."
            }
            Self::RecordNotFound => {
                "There is no such record, or you may not know of it; check its id."
            }
            Self::RevisionStale => {
                "The record has changed since you read it; read it again before you change it."
            }
            Self::StateForbidsVerb => {
                "The record's present state does not allow this; refresh and follow the procedure."
            }
            Self::OperationIdReused => {
                "The operation id was used for another change; send this one under a new id."
            }
            Self::TextNamesPerson => {
                "The text holds an identity number, mobile number, plate or bank card; remove it and send again."
            }
            Self::LimitExceeded => {
                "This is larger than its limit; split it into smaller parts and try again."
            }
            Self::EpochChanged => {
                "The server was restored from a copy; synchronise again from the start."
            }
            Self::PageTokenInvalid => {
                "The page token is not one of this query; start again from the first page."
            }
            Self::StorageUnavailable => {
                "The server cannot write, its disk is full or failing; keep your data, try again later and tell the administrator."
            }
            Self::ServerBusy => "The server is stopping or overloaded; try again shortly.",
            Self::Internal => {
                "Internal error; try again later and give the request id to the administrator."
            }
            Self::RegionUnknown => {
                "The region is not hosted here; check the region id and the address."
            }
            Self::OutsideShift => {
                "Track points lie outside an open shift; open a shift before recording a track."
            }
            Self::AgreementUnknown => {
                "This agreement version is not known here; send the version its parties signed first."
            }
            Self::NotAParty => {
                "The sender or the recipient is no party of this agreement version; check the agreement."
            }
            Self::ChainBroken => {
                "The segment does not join on to what is stored; send again from the position named."
            }
            Self::ProtocolViolation => {
                "Something came that the protocol does not allow; check both software versions and connect again."
            }
            Self::SuiteUnknown => {
                "The segment's format or cipher suite is not known here; upgrade this software."
            }
            Self::NotTheOwner => {
                "The sending region does not own the record, which was refused; ask the region that owns it."
            }
            Self::KindUnknown => {
                "This kind of record is not known here and was set aside; upgrade this software."
            }
            Self::EntryUnreadable => {
                "The entry cannot be opened or decoded and was set aside; ask its origin to seal it again."
            }
            Self::StreamForked => {
                "Two different entries claim one position, and the stream was stopped; tell the administrator at once."
            }
            Self::WentBack => {
                "The other side's position is lower than one it showed before, perhaps after a restore; ask its administrator."
            }
            Self::ParentRejected => {
                "The operation rests on one that was refused; correct that one, then send both again."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_reason_has_its_own_sentence_in_both_languages() {
        let mut said = BTreeSet::new();
        for &reason in Reason::ALL {
            let (zh, en) = (reason.message_zh(), reason.message_en());
            assert!(zh.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c)), "{reason:?}");
            assert!(zh.ends_with('。') && zh.contains('，'), "{reason:?} says what to do");
            assert!(en.is_ascii() && en.ends_with('.'), "{reason:?}");
            assert!(said.insert(zh) && said.insert(en), "{reason:?} repeats another's sentence");
        }
        assert_eq!(said.len(), Reason::ALL.len() * 2);
    }
}
