# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0
#
# A file of variables for jobs/frontend.nomad.hcl: what Traefik goes by.

tags = [
  "traefik.enable=true",
  "traefik.http.routers.buntime.rule=Host(`api.example.com`) || HostRegexp(`^([0-9]+-)?ses[-_][a-z0-9]+\\.preview\\.example\\.net$`)",
  "traefik.http.services.buntime-frontend.loadbalancer.server.scheme=https",
  "traefik.http.services.buntime-frontend.loadbalancer.serverstransport=buntime-frontend@file",
  "traefik.http.services.buntime-frontend.loadbalancer.healthcheck.path=/readyz",
  "traefik.http.services.buntime-frontend.loadbalancer.healthcheck.interval=2s",
]
