package main

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/brisk-project/brisk/scheduler/clusterview"
)

// lookEvery is how often rows are worked out when nothing has changed: nodes fall silent.
const lookEvery = 10 * time.Second

// watch prints the rows of c, and those that change afterwards, until ctx ends.
func watch[R any](ctx context.Context, clients *clusterview.Clients, c *clusterview.View, p *printer[R]) error {
	ctx, stop := context.WithCancel(ctx)
	follower := clients.Watch(ctx)
	defer follower.Close()
	defer stop()
	shown := make(map[string]R)
	for ctx.Err() == nil {
		if c != nil {
			if err := p.some(changed(p.listing, shown, c)); err != nil {
				return err
			}
		}
		c = follower.Wait(ctx, lookEvery)
	}
	return nil
}

// changed returns the rows that are not in shown, or not like this, and puts them there.
func changed[R any](l listing[R], shown map[string]R, c *clusterview.View) []R {
	var news []R
	left := make(map[string]bool)
	for _, row := range l.rows(c) {
		id := l.id(row)
		left[id] = true
		if was, ok := shown[id]; !ok || !reflect.DeepEqual(l.steady(was), l.steady(row)) {
			news = append(news, row)
			shown[id] = row
		}
	}
	for _, id := range slices.Sorted(maps.Keys(shown)) {
		if !left[id] {
			news = append(news, l.gone(shown[id]))
			delete(shown, id)
		}
	}
	return news
}
