# Copyright (c) The Buntime Authors
# SPDX-License-Identifier: MPL-2.0

# An ordinary Bun job, without sessions and without the front-end:
#
#   nomad job run jobs/example.nomad.hcl
#   curl "http://$(nomad service info -t '{{range .}}{{.Address}}:{{.Port}}{{end}}' hello)"
#   nomad alloc logs -job hello

job "hello" {
  type = "service"

  group "hello" {
    network {
      port "http" {
        to = 3000
      }
    }

    service {
      provider = "nomad"
      name     = "hello"
      port     = "http"

      check {
        type     = "http"
        path     = "/"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "hello" {
      driver = "bun"

      config {
        # What stands in ${} here is Nomad's, twice over: in the job file and on
        # the client. Programs with template literals are better off in a file,
        # `script = "local/app.ts"`, put there by an artifact or template block.
        code = <<-EOF
          const greeting: string = process.env.GREETING ?? "Hello";
          const text = greeting + ", " + process.argv[2] + "! This is Bun " + Bun.version + ".\n";
          const server = Bun.serve({
            port: 3000,
            fetch(request) {
              console.log(request.method, new URL(request.url).pathname);
              return new Response(text);
            },
          });
          console.log("listening on", server.url.href);
        EOF
        args = ["Nomad"]

        # On a kernel of its own, gVisor's. Not every node has that: see below.
        # isolation = "gvisor"
      }

      # constraint {
      #   attribute = "${attr.driver.bun.isolation.gvisor}"
      #   operator  = "is_set"
      # }

      env {
        GREETING = "Hello"
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }
}
