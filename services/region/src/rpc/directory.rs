//! `DirectoryService`: the linkage as this region knows it.

use super::Services;
use super::desk::page_size;
use crate::status::{refuse, unwritten};
use domain::kernel::{Reason, RegionId};
use proto::directory::v1 as pb;
use proto::directory::v1::directory_service_server::DirectoryService;
use std::ops::Bound;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl DirectoryService for Services {
    async fn get_region(
        &self,
        request: Request<pb::GetRegionRequest>,
    ) -> Result<Response<pb::GetRegionResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.directory.v1.DirectoryService/GetRegion").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let id = super::device::region_or_own(&request.region_id, region.region())?;
        let book = region.book();
        let found = book.directory().regions.get(&id);
        let found = found.ok_or_else(|| refuse(Reason::RegionUnknown))?;
        region.disclose(&caller, purpose, "GetRegion", (0, 0), 1).await.map_err(unwritten)?;
        Ok(Response::new(pb::GetRegionResponse { region: Some(found.into()) }))
    }

    async fn list_regions(
        &self,
        request: Request<pb::ListRegionsRequest>,
    ) -> Result<Response<pb::ListRegionsResponse>, Status> {
        let (region, caller) =
            self.caller(&request, "wuling.directory.v1.DirectoryService/ListRegions").await?;
        let request = request.into_inner();
        let purpose = super::purpose(request.purpose)?;
        let limit = usize::try_from(page_size(request.page_size)?).unwrap_or(usize::MAX);
        // The token is the last id of the page before.
        let start = if request.page_token.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(
                RegionId::parse(&request.page_token)
                    .map_err(|_| refuse(Reason::PageTokenInvalid))?,
            )
        };
        let book = region.book();
        let directory = book.directory();
        let regions: Vec<pb::Region> = directory
            .regions
            .range((start, Bound::Unbounded))
            .take(limit)
            .map(|(_, found)| pb::Region { outline: Vec::new(), ..found.into() })
            .collect();
        let full = regions.len() == limit;
        let next_page_token =
            regions.last().filter(|_| full).map(|last| last.region_id.clone()).unwrap_or_default();
        region
            .disclose(&caller, purpose, "ListRegions", (0, 0), regions.len())
            .await
            .map_err(unwritten)?;
        let directory_version = directory.version;
        Ok(Response::new(pb::ListRegionsResponse { regions, next_page_token, directory_version }))
    }
}
