//! What is said to people when something is refused: for each reason one sentence in Chinese and one in
//! English, which say what happened and what to do.

use super::Reason;

/// Writes both languages side by side; a reason without its sentences breaks the build.
macro_rules! catalogue {
    ($($reason:ident: $zh:literal, $en:literal;)+) => {
        impl Reason {
            /// What happened and what to do, in Chinese.
            pub const fn message_zh(self) -> &'static str {
                match self { $(Self::$reason => $zh,)+ }
            }

            /// What happened and what to do, in English.
            pub const fn message_en(self) -> &'static str {
                match self { $(Self::$reason => $en,)+ }
            }
        }
    };
}

catalogue! {
    FieldInvalid:
        "有字段缺失、过长、超出范围或格式不对，请按提示逐项改正后重新提交。",
        "A field is missing, too long, out of range or of the wrong form; correct the fields named and send again.";
    CertificateRequired:
        "此操作需要设备证书，请先完成设备登记，再用登记的设备连接。",
        "This call needs a device certificate; enrol the device, then connect with it.";
    RoleForbidden:
        "您的岗位无权进行此操作，请联系值班员或管理员办理。",
        "Your role may not do this; ask a duty officer or the administrator.";
    PurposeRequired:
        "查询未注明用途，请选择查询用途后重试。",
        "The read names no purpose; choose one and try again.";
    EnrolmentCodeInvalid:
        "登记码不存在、已使用或已超过15分钟，请向管理员索取新的登记码。",
        "The enrolment code is unknown, used or older than 15 minutes; ask the administrator for a new one.";
    SignatureInvalid:
        "签名与收到的内容不符，请重新签名后发送；若再次出现，请通知管理员。",
        "The signature does not fit the bytes received; sign and send again, and tell the administrator if it happens again.";
    DeviceRevoked:
        "本设备已被停用，请交还设备并联系管理员。",
        "This device was revoked; hand it in and speak to the administrator.";
    DeviceUnknown:
        "本设备未在该地区登记，请向管理员索取登记码并登记。",
        "This device is not enrolled in the region; ask the administrator for an enrolment code.";
    RecordNotFound:
        "没有这条记录，或您无权知悉，请核对编号。",
        "There is no such record, or you may not know of it; check its id.";
    RevisionStale:
        "记录已被他人更新，请查看最新内容后再修改。",
        "The record has changed since you read it; read it again before you change it.";
    StateForbidsVerb:
        "记录目前的状态不允许此操作，请刷新后按流程办理。",
        "The record's present state does not allow this; refresh and follow the procedure.";
    OperationIdReused:
        "该操作编号已用于另一项更改，请用新的编号重新提交。",
        "The operation id was used for another change; send this one under a new id.";
    TextNamesPerson:
        "文字中含有身份证号、手机号、车牌号或银行卡号，请删去后重新提交。",
        "The text holds an identity number, mobile number, plate or bank card; remove it and send again.";
    LimitExceeded:
        "一次提交或查询的内容超过上限，请拆分成较小的部分再试。",
        "This is larger than its limit; split it into smaller parts and try again.";
    EpochChanged:
        "服务器已从备份恢复，请从头重新同步数据。",
        "The server was restored from a copy; synchronise again from the start.";
    PageTokenInvalid:
        "翻页标记与本次查询不符，请从第一页重新查询。",
        "The page token is not one of this query; start again from the first page.";
    StorageUnavailable:
        "服务器磁盘已满或有故障，暂时无法保存；请保留数据稍后重试，并通知管理员。",
        "The server cannot write, its disk is full or failing; keep your data, try again later and tell the administrator.";
    ServerBusy:
        "服务器正忙或正在停机，请稍后重试。",
        "The server is stopping or overloaded; try again shortly.";
    Internal:
        "服务器内部错误，请稍后重试，并将请求编号告知管理员。",
        "Internal error; try again later and give the request id to the administrator.";
    RegionUnknown:
        "本服务器不承载该地区，请核对地区编号和连接地址。",
        "The region is not hosted here; check the region id and the address.";
    OutsideShift:
        "轨迹点不在已开启的班次内，请先开班再记录轨迹。",
        "Track points lie outside an open shift; open a shift before recording a track.";
    AgreementUnknown:
        "尚不知道这一版协议，请先送达经各方签署的协议再发送。",
        "This agreement version is not known here; send the version its parties signed first.";
    NotAParty:
        "发送方或接收方不是该协议版本的缔约方，请核对协议。",
        "The sender or the recipient is no party of this agreement version; check the agreement.";
    ChainBroken:
        "这一段与已存内容接不上，请从对方指明的位置重新发送。",
        "The segment does not join on to what is stored; send again from the position named.";
    ProtocolViolation:
        "收到不合协议的数据，请核对双方软件版本后重新连接。",
        "Something came that the protocol does not allow; check both software versions and connect again.";
    SuiteUnknown:
        "本机不认识该数据段的格式或加密套件，请升级软件。",
        "The segment's format or cipher suite is not known here; upgrade this software.";
    NotTheOwner:
        "该记录不归发送地区所有，已拒收，请与归属地区核实。",
        "The sending region does not own the record, which was refused; ask the region that owns it.";
    KindUnknown:
        "本机不认识这一类记录，已暂存待处理，请升级软件。",
        "This kind of record is not known here and was set aside; upgrade this software.";
    EntryUnreadable:
        "条目无法解密或解析，已暂存待处理，请发送方重新封装后再发。",
        "The entry cannot be opened or decoded and was set aside; ask its origin to seal it again.";
    StreamForked:
        "同一位置出现两条不同的条目，已停止接收，请立即通知管理员查证。",
        "Two different entries claim one position, and the stream was stopped; tell the administrator at once.";
    WentBack:
        "对方的位置比先前出示的更低，可能从备份恢复过，请与对方管理员核实。",
        "The other side's position is lower than one it showed before, perhaps after a restore; ask its administrator.";
    ParentRejected:
        "所依据的前一项操作已被拒绝，请先改正前一项，再重新提交。",
        "The operation rests on one that was refused; correct that one, then send both again.";
    RegionRevoked:
        "该区域或网关已被撤销，请与联动管理机构联系。",
        "The region or gateway was revoked; turn to the authority of the linkage.";
    TrustStale:
        "所持的信任数据过旧，请让联动管理机构重新发布后再试。",
        "The trust at hand is too old for this; have the authority publish it anew, then try again.";
    TrustForked:
        "同一版本出现两份不同的目录，请立即与联动管理机构核实。",
        "Two directories claim one version; ask the authority of the linkage at once.";
    AgreementForked:
        "同一协议版本出现两份不同的文本，请立即与各方核实。",
        "Two texts claim one version of an agreement; settle with the other parties which one holds.";
    AgreementSuperseded:
        "该协议版本已被新版本取代，请按新版本共享。",
        "A newer version of the agreement has taken its place; share under that one.";
    RegionCloned:
        "同一区域有两份副本同时运行，请停掉其中一份，并在另一份上执行 region restore。",
        "Two copies of one region are at work; stop one, and run region restore on the other.";
    NotDelegated:
        "联动管理机构未授权该区县自列乡镇，请先由管理机构执行 authority delegate。",
        "The authority has not let this county list its townships; have it run authority delegate first.";
    TownshipTaken:
        "其中有乡镇已由另一区县列出，请由联动管理机构裁定归属。",
        "Another county lists one of these townships; have the authority settle whose it is.";
    RecordQuarantined:
        "该记录来自密钥失窃的区域，已隔离，核实后由值班员放行。",
        "The record came from a region whose keys were in other hands and is quarantined; a duty officer releases it once it is confirmed.";
    NotQuarantined:
        "该记录没有可放行的隔离内容，请核对记录号和归属区域。",
        "Nothing of this record is quarantined that could be released; check its id and its owner.";
    ProposalUnknown:
        "此处没有这份协议草案，请先列出草案，再按其 SHA-256 签署。",
        "There is no such proposal here; list the proposals, then name one by its SHA-256.";
    ProposalDeclined:
        "该协议草案已在此处谢绝，如需恢复请由本区域重新提出。",
        "The proposal was declined here; have somebody of this region propose it again to take it up.";
    ProposalsFull:
        "此处保存的协议草案已满，请先签署或谢绝一些。",
        "No more proposals are kept here; sign or decline some first.";
    ProposalExpired:
        "该协议草案已过期，请重新提出。",
        "The proposal is too old to be signed; propose it anew.";
    NotAGateway:
        "区域服务器只提供本区域流的读取，其余请连接网关。",
        "A region gives its own streams to read and nothing else; turn to a gateway for the rest.";
    HeldBack:
        "对方已写出的内容没有经任何网关送到，已直接取回，请与网关管理员核实。",
        "No gateway brought what the other side has written, and it was fetched directly; ask the gateway's operator.";
    RecordOffered:
        "该记录已移交待接收，暂不能更改，请等待对方答复或先撤回移交。",
        "The record is offered to another region and stays as it is; wait for the answer, or recall the offer.";
    TransferNotGranted:
        "现行协议不允许把该记录移交给对方，请核对协议中的移交条款。",
        "No agreement in force grants handing this record over to that region; look at its TRANSFER clauses.";
    OfferDecided:
        "该移交已有结果（已接收、已退回或已撤回），请重新查看。",
        "The offer was accepted, returned or recalled already; look at it again.";
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
