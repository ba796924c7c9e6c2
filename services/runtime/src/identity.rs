//! Who a certificate speaks for.
//!
//! A name in a certificate is `spiffe://<linkage>/…`; its first part says whose authority may have
//! signed it. Host names are derived from it, so that neither can disagree with the other.

use domain::kernel::{DeviceId, GatewayId, LinkageId, RegionId};
use std::fmt;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// A party of the linkage, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A region's server.
    Region(RegionId),
    /// A phone of a region. What it may do is not in its certificate: the region looks it up.
    Device(RegionId, DeviceId),
    /// A gateway's server.
    Gateway(GatewayId),
}

/// Whose authority signs certificates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A region: its servers and its phones.
    Region(RegionId),
    /// A gateway: its servers.
    Gateway(GatewayId),
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be parsed.
    #[error("certificate cannot be parsed")]
    Malformed,
    /// It has no URI name, or more than one.
    #[error("certificate has {0} URI names, expected one")]
    NotOneUri(usize),
    /// Its URI names no party of a linkage.
    #[error("`{0}` names no party of a linkage")]
    Unknown(String),
}

impl Identity {
    /// The name as a certificate carries it.
    pub fn spiffe(&self, linkage: &LinkageId) -> String {
        format!("spiffe://{linkage}/{self}")
    }

    /// Reads such a name.
    ///
    /// # Errors
    /// When it names no party, or names one in another spelling than [`Identity::spiffe`] writes.
    pub fn parse(uri: &str) -> Result<(LinkageId, Self), IdentityError> {
        // A foreign name may be long; the error keeps what helps to find it.
        let unknown = || IdentityError::Unknown(uri.chars().take(200).collect());
        parse(uri).filter(|(linkage, identity)| identity.spiffe(linkage) == uri).ok_or_else(unknown)
    }

    /// The host name a client asks for, which its certificate carries too.
    pub fn dns_name(&self, linkage: &LinkageId) -> String {
        match self {
            Self::Region(region) => format!("{region}.region.{linkage}.internal"),
            Self::Device(region, device) => format!("{device}.device.{region}.{linkage}.internal"),
            Self::Gateway(gateway) => format!("{gateway}.gateway.{linkage}.internal"),
        }
    }

    /// Whose authority alone may sign this name.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Region(region) | Self::Device(region, _) => Owner::Region(region.clone()),
            Self::Gateway(gateway) => Owner::Gateway(gateway.clone()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(region) => write!(f, "region/{region}"),
            Self::Device(region, device) => write!(f, "region/{region}/device/{device}"),
            Self::Gateway(gateway) => write!(f, "gateway/{gateway}"),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(region) => write!(f, "region/{region}"),
            Self::Gateway(gateway) => write!(f, "gateway/{gateway}"),
        }
    }
}

/// Reads the name in a certificate. It says nothing about who signed it.
///
/// # Errors
/// When the certificate does not carry exactly one URI name, of a party of a linkage.
pub fn identity_of(certificate_der: &[u8]) -> Result<(LinkageId, Identity), IdentityError> {
    let (rest, certificate) =
        X509Certificate::from_der(certificate_der).map_err(|_| IdentityError::Malformed)?;
    if !rest.is_empty() {
        return Err(IdentityError::Malformed);
    }
    let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Malformed)?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let uris: Vec<_> = names
        .iter()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris[..] {
        [uri] => Identity::parse(uri),
        _ => Err(IdentityError::NotOneUri(uris.len())),
    }
}

fn parse(uri: &str) -> Option<(LinkageId, Identity)> {
    let parts: Vec<_> = uri.strip_prefix("spiffe://")?.split('/').collect();
    let (linkage, party) = parts.split_first()?;
    let identity = match *party {
        ["region", region] => Identity::Region(RegionId::parse(region).ok()?),
        ["region", region, "device", device] => {
            let device: DeviceId = device.parse().ok()?;
            // Parsing a text takes any UUID; a device has one of version 7.
            Identity::Device(
                RegionId::parse(region).ok()?,
                DeviceId::from_slice(device.as_bytes())?,
            )
        }
        ["gateway", gateway] => Identity::Gateway(GatewayId::parse(gateway).ok()?),
        _ => return None,
    };
    Some((LinkageId::parse(linkage).ok()?, identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "019aa8c0-1234-7abc-8def-0123456789ab";

    #[test]
    fn a_name_reads_back_as_written() {
        for uri in [
            "spiffe://wuling/region/xiaonanhai",
            &format!("spiffe://wuling/region/xiaonanhai/device/{DEVICE}"),
            "spiffe://wuling/gateway/gw1",
        ] {
            let (linkage, identity) = Identity::parse(uri).expect(uri);
            assert_eq!(identity.spiffe(&linkage), uri);
        }
    }

    #[test]
    fn a_name_of_any_other_form_is_refused() {
        for uri in [
            "",
            "spiffe://",
            "spiffe://wuling",
            "spiffe://wuling/",
            "spiffe://wuling/region",
            "spiffe://wuling/region/",
            "spiffe://wuling/region/a/",
            "spiffe://wuling/region/A",
            "spiffe://wuling/region/a/device",
            "spiffe://wuling/region/a/device/b",
            "spiffe://wuling/region/a/device/019AA8C0-1234-7ABC-8DEF-0123456789AB",
            "spiffe://wuling/region/a/device/019aa8c012347abc8def0123456789ab",
            "spiffe://wuling/region/a/device/6ba7b810-9dad-41d1-80b4-00c04fd430c8",
            "spiffe://wuling/gateway/a/b",
            "spiffe://wuling/officer/a",
            "SPIFFE://wuling/region/a",
            "https://wuling/region/a",
            "spiffe://wu ling/region/a",
        ] {
            assert!(Identity::parse(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn a_phone_belongs_to_its_region() {
        let linkage = LinkageId::parse("wuling").expect("slug");
        let uri = format!("spiffe://wuling/region/xiaonanhai/device/{DEVICE}");
        let (_, phone) = Identity::parse(&uri).expect("a phone");
        assert_eq!(phone.owner().to_string(), "region/xiaonanhai");
        let region = Identity::Region(RegionId::parse("xiaonanhai").expect("slug"));
        assert_eq!(region.dns_name(&linkage), "xiaonanhai.region.wuling.internal");
    }

    #[test]
    fn bytes_that_are_no_certificate_name_nobody() {
        for bytes in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0xff; 64]] {
            assert_eq!(identity_of(bytes), Err(IdentityError::Malformed));
        }
    }
}
