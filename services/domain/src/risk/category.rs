//! Category codes of events (DOMAIN 8.9) and dispute kinds (DOMAIN 8.4): one list, no code twice.

use super::{EmergencyClass, EventDomain};

/// What an event is about, by code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Category {
    /// The code, as in `Event.category`.
    pub code: &'static str,
    /// Its name in Chinese.
    pub zh: &'static str,
    /// The part of the work it belongs to.
    pub domain: EventDomain,
    /// The class of emergency it may become.
    pub class: Option<EmergencyClass>,
}

/// The category with this code.
pub fn category(code: &str) -> Option<&'static Category> {
    CATEGORIES.iter().find(|category| category.code == code)
}

/// Codes that the grant RIVER_FOREST covers.
pub const RIVER_AND_FOREST: &[&str] =
    &["RIVER_FOUR_DISORDERS", "FOREST_DAMAGE", "POACHING", "FOREST_FIRE", "POLLUTION"];

/// Dispute kinds that leave a region only as counts, never as records (DOMAIN 3.4).
pub const KEPT_HOME: &[&str] = &["FAMILY", "MEDICAL"];

/// Every category.
pub const CATEGORIES: &[Category] = &[
    safety("GEOLOGICAL", "地质灾害隐患", EmergencyClass::NaturalDisaster),
    safety("FLASH_FLOOD", "山洪内涝", EmergencyClass::NaturalDisaster),
    safety("FOREST_FIRE", "森林火情", EmergencyClass::NaturalDisaster),
    safety("FIRE_SAFETY", "消防", EmergencyClass::Accident),
    safety("ROAD_TRAFFIC", "道路交通", EmergencyClass::Accident),
    safety("CONSTRUCTION", "建筑施工", EmergencyClass::Accident),
    safety("GAS_POWER", "燃气用电", EmergencyClass::Accident),
    safety("HAZMAT", "危险物品", EmergencyClass::Accident),
    safety("WATER_DROWNING", "涉水溺水", EmergencyClass::Accident),
    safety("FOOD_DRUG", "食品药品", EmergencyClass::PublicHealth),
    safety("ANIMAL_DISEASE", "动物疫情", EmergencyClass::PublicHealth),
    security("THEFT_PATTERN", "盗窃多发地段"),
    security("PUBLIC_ORDER", "秩序"),
    security("FRAUD_PATTERN", "诈骗手法"),
    security("ROAD_LINE", "护路护线"),
    security("SCHOOL_SURROUND", "校园周边"),
    plain("RIVER_FOUR_DISORDERS", "河道四乱", EventDomain::Environment),
    plain("FOREST_DAMAGE", "毁林", EventDomain::Environment),
    plain("POLLUTION", "污染", EventDomain::Environment),
    plain("POACHING", "非法捕猎捕捞", EventDomain::Environment),
    plain("STREETLIGHT", "路灯", EventDomain::Facility),
    plain("ROAD_DAMAGE", "道路损坏", EventDomain::Facility),
    plain("BOUNDARY_MARKER", "界桩损坏", EventDomain::Facility),
    plain("MANHOLE", "井盖", EventDomain::Facility),
    plain("HALL_REQUEST", "窗口诉求", EventDomain::Service),
    plain("HELP", "求助", EventDomain::Service),
    plain("FAMILY", "婚姻家庭", EventDomain::Dispute),
    plain("NEIGHBOUR", "邻里", EventDomain::Dispute),
    plain("LAND_FOREST_WATER", "山林土地水利", EventDomain::Dispute),
    plain("BOUNDARY", "边界权属", EventDomain::Dispute),
    plain("HOUSING_PROPERTY", "房屋物业", EventDomain::Dispute),
    plain("LABOUR", "劳动争议", EventDomain::Dispute),
    plain("WAGES", "欠薪", EventDomain::Dispute),
    plain("CONTRACT", "合同债务", EventDomain::Dispute),
    plain("CONSUMER", "消费", EventDomain::Dispute),
    plain("TRAFFIC", "交通事故", EventDomain::Dispute),
    plain("MEDICAL", "医疗", EventDomain::Dispute),
    plain("LAND_TAKING", "征地拆迁", EventDomain::Dispute),
    plain("ENVIRONMENT", "环境", EventDomain::Dispute),
    plain("SCHOOL", "校园", EventDomain::Dispute),
    plain("OTHER", "其他", EventDomain::Dispute),
];

const fn safety(code: &'static str, zh: &'static str, class: EmergencyClass) -> Category {
    Category { code, zh, domain: EventDomain::Safety, class: Some(class) }
}

const fn security(code: &'static str, zh: &'static str) -> Category {
    let class = Some(EmergencyClass::PublicSecurity);
    Category { code, zh, domain: EventDomain::Security, class }
}

const fn plain(code: &'static str, zh: &'static str, domain: EventDomain) -> Category {
    Category { code, zh, domain, class: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_code_stands_twice_and_each_fits_its_field() {
        let codes: BTreeSet<_> = CATEGORIES.iter().map(|category| category.code).collect();
        assert_eq!(codes.len(), CATEGORIES.len());
        assert_eq!(codes.len(), 41);
        assert!(codes.iter().all(|code| (1..=32).contains(&code.len())));
    }

    #[test]
    fn every_code_that_a_rule_names_is_a_category() {
        for code in RIVER_AND_FOREST.iter().chain(KEPT_HOME) {
            assert!(category(code).is_some(), "{code}");
        }
        assert_eq!(category("GEOLOGICAL").expect("known").zh, "地质灾害隐患");
        assert_eq!(category("geological"), None);
    }
}
