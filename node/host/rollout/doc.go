// Package rollout brings the node agent from a pod to the machine that the pod runs on,
// and keeps it supplied with what the cluster gives to pods only: its configuration, and
// credentials that are good for a while.
//
// The agent runs as a service of the machine and not in the pod: containerd needs it
// before there are pods, and containers need it when the pod has gone.
package rollout
