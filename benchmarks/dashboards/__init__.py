"""The dashboards of deploy/grafana drawn without Grafana, from what a real Prometheus holds of real daemons."""
