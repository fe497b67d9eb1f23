package debian

import (
	"embed"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

//go:embed files
var embedded embed.FS

// recipe is what an image has on top of Debian.
type recipe struct {
	names    []string // without a registry
	packages []string
	setup    string // shell commands, after the packages were installed
	files    []file
	config   v1.ImageConfig
}

// file is a file of the directory files.
type file struct {
	name string
	path string // in the image, without a leading slash
	mode int64
}

var recipes = []recipe{
	{
		names:  []string{"library/debian:latest", "library/debian:12", "library/debian:bookworm"},
		config: v1.ImageConfig{Cmd: []string{"bash"}},
	},
	{
		names:    []string{"library/mariadb:latest", "library/mariadb:10.11"},
		packages: []string{"mariadb-server-core", "mariadb-client"},
		setup: `useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin mysql
			install -d -o mysql -g mysql /var/lib/mysql /run/mysqld
			rm -f /usr/bin/mariadb-test* /usr/bin/mariadb-embedded`,
		files: []file{{"mariadb.sh", "usr/local/bin/docker-entrypoint.sh", 0o755}},
		config: v1.ImageConfig{
			Entrypoint:   []string{"docker-entrypoint.sh"},
			Cmd:          []string{"mariadbd"},
			ExposedPorts: map[string]struct{}{"3306/tcp": {}},
			Volumes:      map[string]struct{}{"/var/lib/mysql": {}},
		},
	},
	{
		names:    []string{"library/nginx:latest", "library/nginx:1.22"},
		packages: []string{"nginx"},
		setup:    `mkdir -p /usr/share/nginx/html && cp /var/www/html/*.html /usr/share/nginx/html/index.html 2>/dev/null || cp /usr/share/nginx/html/*.html /usr/share/nginx/html/index.html || true`,
		files: []file{
			{"nginx.conf", "etc/nginx/nginx.conf", 0o644},
			{"nginx-default.conf", "etc/nginx/conf.d/default.conf", 0o644},
		},
		config: v1.ImageConfig{
			Cmd:          []string{"nginx", "-g", "daemon off;"},
			ExposedPorts: map[string]struct{}{"80/tcp": {}},
			StopSignal:   "SIGQUIT",
		},
	},
	{
		names:    []string{"library/redis:latest", "library/redis:7"},
		packages: []string{"redis-server"},
		setup:    `install -d -o redis -g redis /data`,
		config: v1.ImageConfig{
			User:         "redis",
			WorkingDir:   "/data",
			Cmd:          []string{"redis-server", "--protected-mode", "no", "--bind", "0.0.0.0", "--dir", "/data"},
			ExposedPorts: map[string]struct{}{"6379/tcp": {}},
			Volumes:      map[string]struct{}{"/data": {}},
		},
	},
	{
		names:    []string{"prom/prometheus:latest", "prom/prometheus:v2.42.0"},
		packages: []string{"prometheus"},
		setup:    `install -d -o nobody -g nogroup /prometheus`,
		config: v1.ImageConfig{
			User:       "nobody",
			WorkingDir: "/prometheus",
			Entrypoint: []string{"/usr/bin/prometheus"},
			Cmd: []string{"--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus",
				"--web.console.libraries=/usr/share/prometheus/console_libraries", "--web.console.templates=/usr/share/prometheus/consoles"},
			ExposedPorts: map[string]struct{}{"9090/tcp": {}},
		},
	},
	{
		// A server in user space: kernels without nfsd have it too. With clients.
		names:    []string{"library/nfs-server:latest"},
		packages: []string{"nfs-ganesha", "nfs-ganesha-vfs", "libnfs-utils"},
		setup:    `mkdir -p /exports /run/ganesha /run/rpcbind /var/lib/nfs/ganesha && ln -sf /proc/self/mounts /etc/mtab`,
		files:    []file{{"ganesha.conf", "etc/ganesha/ganesha.conf", 0o644}},
		config: v1.ImageConfig{
			Cmd:          []string{"sh", "-c", "rpcbind && exec ganesha.nfsd -F -L STDOUT -f /etc/ganesha/ganesha.conf"},
			ExposedPorts: map[string]struct{}{"2049/tcp": {}},
		},
	},
	{
		names:    []string{"lab/django:latest", "lab/django:1.0"},
		packages: []string{"python3-django", "python3-mysqldb"},
		files:    []file{{"app.py", "app/app.py", 0o644}},
		config: v1.ImageConfig{
			User:         "www-data",
			WorkingDir:   "/app",
			Cmd:          []string{"python3", "-u", "app.py"},
			ExposedPorts: map[string]struct{}{"8000/tcp": {}},
		},
	},
}
